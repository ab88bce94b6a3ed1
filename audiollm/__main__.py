"""`python -m audiollm` is the command, so that a launcher can start it: torchrun --nproc_per_node 8 -m audiollm ..."""

from audiollm.cli import main

if __name__ == "__main__":
    main()
