"""A ShuffleNet-like student of a ResNet teacher; pruned, INT8."""
