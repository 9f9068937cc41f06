"""YOLOv12 with the pretrained encoder as its backbone, and the same detector from scratch."""
