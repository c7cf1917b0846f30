{# What was a macro in an app's SQL and is a model: the message says how to read it. #}
{% macro moved(macro, model, surface) -%}
{{ exceptions.raise_compiler_error(
    'macro ' ~ macro ~ ' is a model: write `select * exclude (surface) from {{ ref(\'' ~ model ~ '\') }} where surface = \''
    ~ surface ~ '\'` in its place'
) }}
{%- endmacro %}

{% macro example_inputs(surface) -%} {{ moved('example_inputs', 'example_inputs', surface) }} {%- endmacro %}

{% macro first_listens(surface) -%} {{ moved('first_listens', 'first_listens', surface) }} {%- endmacro %}

{% macro clicked_trails(surface, max_hours) -%} {{ moved('clicked_trails', 'clicked_trails', surface) }} {%- endmacro %}

{% macro latest_outcomes(surface, tasks) -%} {{ moved('latest_outcomes', 'latest_outcomes', surface) }} {%- endmacro %}

{% macro teacher_inputs(surface) -%} {{ moved('teacher_inputs', 'teacher_inputs', surface) }} {%- endmacro %}
