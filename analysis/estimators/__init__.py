"""The room of estimators: numbers computed from attention, one idea per file.

What may enter: functions of arrays whose leading axes are free (layer, head, ...). Nothing here runs a model or knows a
study.
"""
