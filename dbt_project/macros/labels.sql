{# Texts as an SQL list of strings. #}
{% macro in_quotes(texts) -%}
{%- for text in texts -%} '{{ text | replace("'", "''") }}'{{ ', ' if not loop.last }} {%- endfor -%}
{%- endmacro %}


{# Label parameter of a surface, from `labels:` of its YAML. #}
{% macro label_parameter(surface, name) -%}
{%- set parameters = var('labels')[surface] or {} -%}
{%- if execute and name not in parameters -%}
    {{ exceptions.raise_compiler_error('surface ' ~ surface ~ ' has no label parameter ' ~ name) }}
{%- endif -%}
{{ parameters[name] }}
{%- endmacro %}


{# Days after its own on which what follows an exposure of `surface` (SQL) counts for it: those of the surface's YAML. #}
{% macro label_window_days(surface) -%}
{%- if var('label_window_days') -%}
case {{ surface }}
    {%- for name, days in var('label_window_days').items() %} when '{{ name }}' then {{ days }}{% endfor %} else 1 end
{%- else -%}
1
{%- endif -%}
{%- endmacro %}


{# The longest of them. #}
{% macro longest_label_window() -%} {{ ([1] + var('label_window_days').values() | list) | max }} {%- endmacro %}
