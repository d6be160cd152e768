"""The Findings page: claims of the studies beside their nulls, and a knockout to try. Only this page reads reports."""
