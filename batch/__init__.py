"""The command `glc batch`: millions of images to bitstreams and back, resumable, on one machine or a Ray cluster."""
