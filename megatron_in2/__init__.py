"""IN2 training on Megatron-Core: synthesis, packed data, training, conversion, probing."""

import warnings

__version__ = "0.2.0"

# Megatron-Core 0.16 warns once a module and rank that optional packages are absent (the trainer
# says in its first line which backend it uses) and uses names that torch 2.13 deprecates.
warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed.*")
warnings.filterwarnings("ignore", message=".*full scope is deprecated.*cuda_graph_scope.*")
warnings.filterwarnings("ignore", message=".*torch.distributed.*is deprecated.*_single")
warnings.filterwarnings("ignore", message="`load_state_dict` is deprecated.*Please use `load`")
warnings.filterwarnings("ignore", message="Please use DTensor instead")
