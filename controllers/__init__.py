"""Who decides: rules, scores and the network. Controllers read observations, never the model.

>>> from plasticity_env import controllers
>>> controllers.make("fisher", sparsity=0.3)
>>> controllers.load("runs/my_run/controller")

The names that it offers are listed in ``__init__.pyi``; each is imported when it is first used.
"""

if __name__ != "plasticity_env.controllers":
    raise ImportError(
        "controllers is imported as plasticity_env.controllers: that is its only name, in a checkout and installed"
    )

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
