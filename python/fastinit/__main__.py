"""`python -m fastinit check`, `demo`, `demo-sharded` and `info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastinit import demo, info
from fastinit._check import command as check
from fastinit.demo import sharded


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastinit", description="Fast torch.nn.init.")
    commands = parser.add_subparsers(title="commands")
    for name, command in (("check", check), ("demo", demo), ("demo-sharded", sharded), ("info", info)):
        summary = (command.__doc__ or "").splitlines()[0]
        subparser = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    if "run" not in args:
        parser.print_help()
        return 0
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
