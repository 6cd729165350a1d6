"""The packed dataset: its files, its manifest, and which row comes when."""
