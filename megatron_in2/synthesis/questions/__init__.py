"""Questions about evidence: which evidence, who writes, what is dropped."""
