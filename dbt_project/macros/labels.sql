{# Label parameter of a surface, from `labels:` of its YAML. #}
{% macro label_parameter(surface, name) -%}
{%- set parameters = var('labels')[surface] or {} -%}
{%- if execute and name not in parameters -%}
    {{ exceptions.raise_compiler_error('surface ' ~ surface ~ ' has no label parameter ' ~ name) }}
{%- endif -%}
{{ parameters[name] }}
{%- endmacro %}
