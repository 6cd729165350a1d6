"""The parallel layout of a training run."""

from dataclasses import dataclass

from megatron_in2.errors import InputError


@dataclass(frozen=True)
class ParallelConfig:
    """The parallel layout. The data-parallel size is the world size over TP x PP x CP.

    The optimizer's state is always sharded over the data-parallel ranks.

    Args:
        tensor: tensor-parallel size (splits every matrix).
        pipeline: pipeline-parallel size (splits the layers).
        context: context-parallel size (splits every sample's tokens).
        sequence: sequence parallelism (splits activations between matrices); needs tensor > 1.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    sequence: bool = False

    @property
    def model_ranks(self) -> int:
        """Number of ranks that hold one copy of the model."""
        return self.tensor * self.pipeline * self.context

    @property
    def sample_multiple(self) -> int:
        """The padded length of every packed sample must be a multiple of this, in tokens.

        Context parallelism cuts each sample into 2 x CP zigzag chunks; sequence parallelism then
        splits each context rank's tokens over the tensor-parallel ranks.
        """
        chunks = 2 * self.context if self.context > 1 else 1
        return chunks * (self.tensor if self.sequence else 1)

    def data_ranks(self, world_size: int) -> int:
        """Data-parallel size in a world of ``world_size`` ranks."""
        return world_size // self.model_ranks

    def validate(self, world_size: int) -> None:
        """Check the layout against the world.

        Raises:
            InputError: a size below 1, sequence parallelism without tensor parallelism, or a
                world that is no multiple of TP x PP x CP.
        """
        for name in ("tensor", "pipeline", "context"):
            if getattr(self, name) < 1:
                raise InputError(f"parallel.{name}={getattr(self, name)}: must be 1 or more")
        if self.sequence and self.tensor == 1:
            raise InputError(
                "parallel.sequence=true needs parallel.tensor > 1: set one or the other"
            )
        if world_size < 1 or world_size % self.model_ranks:
            raise InputError(
                f"world size {world_size} does not fit parallel.tensor={self.tensor} x "
                f"pipeline={self.pipeline} x context={self.context} = {self.model_ranks}: "
                f"use a multiple of {self.model_ranks} ranks (--nproc) or smaller parallel sizes"
            )
