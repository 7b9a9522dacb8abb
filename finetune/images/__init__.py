"""Images: decoding, the pixel store, and augmentation on batches."""
