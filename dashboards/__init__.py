"""The Streamlit application: pages that read recordings, and a worker that runs streams."""
