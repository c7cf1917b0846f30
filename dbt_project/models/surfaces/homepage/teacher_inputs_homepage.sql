{{ teacher_inputs('homepage') }}
