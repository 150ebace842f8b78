"""What proves the speed of fastinit: `python -m benchmarks`, or `make bench`.

The words: a *case* is an initialiser with its arguments, and a *row* a case on tensors of one kind. The *sides*
of a row (torch, fastinit, a plain fill, ...) are checked, then timed in turns, so that a drift of the machine
hits them all. A row may have *requirements*: how much faster one side has to be than another.

`cases.py` says what these are, and `suites.py` lists them: that is where to add one. `libraries.py` has the sides'
init modules, `check.py` looks at the values, `measure.py` takes the times (`on_device.py` those of a GPU), `fits.py`
finds how they grow, `machine.py` says where this was; `report.py` and `plots.py` show a results file. `models.py`
builds whole models, each in a process of its own. `gpu_check.py` is what to run on a machine with a GPU, and
`instructions.py` counts what the CUDA kernels take where there is none.
"""
