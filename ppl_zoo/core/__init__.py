"""What every part rests on: the model, its rows, its posterior, and the base of the solvers."""
