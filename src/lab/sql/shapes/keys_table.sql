CREATE TABLE keys.t_$n (
    id bigint NOT NULL,
    first_ref bigint,
    second_ref bigint,
    third_ref bigint,
    code text NOT NULL,
    amount numeric(12, 2)
);
