"""torch's optimizer for a method of ours."""


def torch_optimizer(method, params):
    """torch.optim's optimizer of that name and those hyperparameters: its for-loop, neither `foreach` nor `fused`."""
    import torch

    return getattr(torch.optim, method.cls.__name__)(params, foreach=False, **method.hyper)
