"""IN2 training on Megatron-Core: synthesis, packed data, training, conversion, probing."""

import warnings

__version__ = "0.1.0"

# Megatron-Core warns at import, once a module and rank, that optional packages are absent; the
# trainer says in its first lines which backend it uses.
warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed.*")
warnings.filterwarnings("ignore", message=".*full scope is deprecated.*cuda_graph_scope.*")
