"""What is wrong with a model's initialisation: ``Report.check``, ``Recipe.check`` and ``python -m fastinit check``.

``trace`` and ``sites`` say what is remembered while a model is built, ``subject`` and ``sources`` what is known of its
parameters, ``theory`` which distribution their values have, ``structure`` what the modules say they are for. A finding is
one function in one of the lists ``filled``, ``fans``, ``scale`` and ``values``; ``check`` calls them all. ``text``, ``plot``
and ``command`` show what was found.
"""
