{{ teacher_inputs('__surface__') }}
