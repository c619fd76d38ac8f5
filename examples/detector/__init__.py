"""A YOLO-like detector of drawn shapes: channels pruned, distilled from a larger one, INT8."""
