"""Other ways to fewer tokens, each written from its paper and from nobody's code: one file a method.

Every method is a function of features [T, H, W, C] and the tokens that are wanted. It gives what a language model would
get and the token of each cell, and never more tokens than wanted. A count that the method cannot reach is `OutOfReach`.
"""
