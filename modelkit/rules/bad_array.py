"""A numpy array that is not described as it should be.

The header of an .npy is a dictionary of descr, fortran_order and shape; the data has the size that follows.

Why: It cannot be read.

Fix: Save it again with numpy.save or numpy.savez.

    weights.npz: a.npy: its header is no description of an array
"""

from modelkit.rules._contract import Rule

rule = Rule("A numpy array that is not described as it should be", "error", "safetensors")
