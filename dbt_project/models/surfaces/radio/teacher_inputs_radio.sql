{{ teacher_inputs('radio') }}
