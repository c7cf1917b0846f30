create database lake;
