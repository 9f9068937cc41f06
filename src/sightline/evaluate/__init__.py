"""What the frozen encoder is worth: kNN and linear evaluation."""
