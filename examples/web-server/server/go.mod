module example.org/visits

go 1.22
