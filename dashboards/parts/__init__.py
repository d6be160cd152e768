"""What several pages share: state in the address, names in the session, controls, downloads, components.

No page, and nothing that only one page needs; imports no page.
"""
