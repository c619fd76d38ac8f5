"""Vision transformers: a MobileViT-like student of a DeiT-like teacher; heads and MLPs pruned, INT8."""
