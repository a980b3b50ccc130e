"""`make chaos`: a steady load, faults drawn at random, and books that cannot flatter."""
