import streamlit as st
st.title('atlas')
