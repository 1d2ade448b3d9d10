"""What trainers need to push weights: pushes that the training does not wait for.

Knows the client's public names. Knows no framework: `varserve.keras` and `varserve.tf_keras` do.
"""
