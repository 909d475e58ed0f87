"""How far apart two models are: their weights, their hidden states, the distributions that they predict."""
