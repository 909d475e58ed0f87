"""The reference runner: a decoder in numpy, exact to transformers in float32.

Exact means: the largest difference of a logit is below 1e-5 of the largest logit. It runs any model whose
family is on the shelf of architectures, from any format and encoding, and needs memory for little more
than a block of rows when the model does not fit.

The seam that other operations build on:

    weights = Weights(tensors, opener, keep=bytes)       canonical tensors as float32, kept or decoded on the fly
    decoder = Decoder(weights, config, length)           length: tokens in all, cached ones included
    x = decoder.embed(ids)                               int [batch, tokens] -> float32 [batch, tokens, hidden]
    x = decoder.block(layer, x, cache)                   one layer; cache = None for a whole sequence at once
    for first, logits in decoder.head_blocks(x): ...     float32 [batch, tokens, run of the vocabulary]

Which rows are multiplied together follows from shapes alone, never from an encoding or a memory budget. So
two models with the same values give the same bits, however they are stored; `verify --gate lossless`
stands on it. Generated text alone is made with `direct=True`: its single vectors are multiplied straight from
the stored blocks of int8 and int4 encodings, quicker and from a quarter of the memory, summed in an order that
differs from float32's (`kernels.groups.product`), so logits differ by some 1e-6 of the largest.
"""
