"""One seed of a study: its files, and the steps that make them."""
