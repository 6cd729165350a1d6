"""Transformer Engine's modules as a trace needs them: what they allocate, keep and send.

Read in Transformer Engine 2.11 (``transformer_engine/pytorch``), whose kernels run on GPUs only.
The modules here have its shapes, its collectives and the tensors that it keeps for the backward
pass, in half precision without FP8. They compute nothing and run inside a trace alone.
"""
