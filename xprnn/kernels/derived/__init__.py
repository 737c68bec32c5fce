"""From a traced cell to kernels: the trace of a step, the program that it is cut into, and what runs programs."""
