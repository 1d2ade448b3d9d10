"""REST: the paths of TensorFlow Serving (`/v1`) and of the Open Inference Protocol (`/v2`)."""
