"""Questions to samples: evidence among fillers in long contexts."""
