"""Small synthetic worlds: what samples and probes of a study are made of."""
