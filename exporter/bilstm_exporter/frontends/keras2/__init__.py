"""Models of Keras 1 and 2, read by tf_keras."""
