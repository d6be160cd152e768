"""What several pages share: state in the address, controls, downloads, components. No page."""
