"""The endpoint pickers of the Gateway API Inference Extension, built and run beside ours for comparison."""
