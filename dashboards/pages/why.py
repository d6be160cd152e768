"""Why: the whole life of one token."""
import streamlit as st
st.title("Why")
