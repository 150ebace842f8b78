"""A library, for test_models.py, that takes torch's functions when it is imported, as transformers does."""

import torch.nn.init

TABLE = {name: getattr(torch.nn.init, name) for name in torch.nn.init.__all__ if name.endswith("_")}
