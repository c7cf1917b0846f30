{# `columns` are never null and together identify a row. #}
{% test key(model, columns) %}
select
    {{ columns | join(', ') }},
    count(*) as copies
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1{% for column in columns %} or {{ column }} is null{% endfor %}
{% endtest %}


{# `columns` are never null. #}
{% test filled(model, columns) %}
select * from {{ model }} where {% for column in columns %}{{ column }} is null{{ ' or ' if not loop.last }}{% endfor %}
{% endtest %}


{# Each column of `ranges` lies in [lowest, highest] where it is not null; a null bound is open. NaN is above any bound. #}
{% test in_range(model, ranges) %}
select *
from {{ model }}
where
    {% for column, bounds in ranges.items() -%}
    {{ 'or ' if not loop.first }}{{ column }} < {{ bounds[0] if bounds[0] is not none else "'-infinity'::double" }}
    or {{ column }} > {{ bounds[1] if bounds[1] is not none else "1e300" }}
    {% endfor %}
{% endtest %}


{# The values of `columns`, where none is null, occur in the same columns of `to` among the days of this run. #}
{% test covered_by(model, columns, to) %}
select {{ columns | join(', ') }}
from {{ model }}
where {% for column in columns %}{{ column }} is not null{{ ' and ' if not loop.last }}{% endfor %}
except
select {{ columns | join(', ') }} from {{ to }} where {{ built_days() }}
{% endtest %}


{# The rows are exactly the exposures of `surface`. #}
{% test one_row_per_exposure(model, surface) %}
select
    coalesce(shown.day, built.day) as day,
    coalesce(shown.exposure_id, built.exposure_id) as exposure_id
from (select day, exposure_id from {{ ref('stg_exposures') }} where surface = '{{ surface }}' and {{ built_days() }}) as shown
full join (select day, exposure_id from {{ model }}) as built on shown.day = built.day and shown.exposure_id = built.exposure_id
where shown.exposure_id is null or built.exposure_id is null
{% endtest %}
