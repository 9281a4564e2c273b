"""The architectures that a network of the study can have: one file each, of the name in the configuration.

A file holds a class `Network(nn.Module)` that takes the number of classes and, by name, the options of its own that an
entry may set (`width`, `column_gate`), and turns features, [batch, 1, 32, 32], into logits, [batch, classes]. Every
ReLU that k-winners may replace is a module of its own.
"""
