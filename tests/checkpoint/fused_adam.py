"""What Transformer Engine's FusedAdam demands of its state, with AdamW's arithmetic in torch."""

from typing import Any

import torch


class FusedAdam(torch.optim.Optimizer):
    """By the rules of ``transformer_engine.pytorch.optimizers.FusedAdam`` (2.9 to 2.11).

    Its groups have ``bias_correction``; the count of steps is an int in the group, which its
    kernel takes as one, and absent before the first step; a parameter's state has no ``step``.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        adam_w_mode: bool = True,
        **unused: Any,
    ) -> None:
        assert adam_w_mode
        super().__init__(
            params,
            {
                "lr": lr,
                "bias_correction": bias_correction,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
            },
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group["step"] + 1 if "step" in group else 1
            count = group["step"]
            assert type(count) is int, f"the kernel takes an int, not {count!r}"
            (beta1, beta2), rate = group["betas"], group["lr"]
            first = 1 - beta1**count if group["bias_correction"] else 1.0
            second = 1 - beta2**count if group["bias_correction"] else 1.0
            for each in group["params"]:
                if each.grad is None:
                    continue
                state = self.state[each]
                if not state:
                    state.update(
                        {name: torch.zeros_like(each) for name in ("exp_avg", "exp_avg_sq")}
                    )
                assert "step" not in state
                state["exp_avg"].lerp_(each.grad, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(each.grad, each.grad, value=1 - beta2)
                update = state["exp_avg"] / first
                update /= (state["exp_avg_sq"] / second).sqrt() + group["eps"]
                each.mul_(1 - rate * group["weight_decay"]).sub_(rate * update)
