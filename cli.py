"""The command line, from a checkout: `python cli.py finetune recipe=vit-digits`."""

import sys

from finetune.command import main

if __name__ == "__main__":
    sys.exit(main())
