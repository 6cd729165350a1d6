"""The sharded checkpoint store, and exact conversion from and to Hugging Face."""
